-- park: IN_PROGRESS -> WAITING | PAUSED
-- Gives the intent up until its timer (`wake`) or news. Refused when the journal holds more than the owner has seen.
-- by     owner
-- keys   head journal timers stream
-- args   id fence k seen entry reason wake
-- with   session
-- reply  OK | NEWS | DUPLICATE | REGRESSED | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rearm rest save
local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'watch', 'paused')
if (h[1] == 'WAITING' or h[1] == 'PAUSED') and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence) or miscounted(journal, h[3], k)
if no then return no end
if redis.call('LLEN', journal) ~= tonumber(seen) then return 'NEWS' end
save(session, head) -- session
drop(stream, entry)
redis.call('HDEL', head, 'at')
if k ~= '0' then redis.call('HDEL', head, 'losses', 'lost') end
redis.call('HSET', head, 'status', resting(head, journal, h[5]), 'reason', reason)
if wake ~= '' then redis.call('HSET', head, 'wake', moment(wake)) end
rearm(head, timers, id)
if h[4] then redis.call('PUBLISH', h[4], id .. '+') end
return 'OK'
