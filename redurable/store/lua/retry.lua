-- retry: IN_PROGRESS -> WAITING | PAUSED
-- Ends an attempt whose handler raised; the next may begin at `wake`, at once if the owner has not seen all news.
-- by     owner
-- keys   head journal timers stream
-- args   id fence k seen entry wake failure
-- reply  OK | DUPLICATE | REGRESSED | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rearm rest
local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'watch', 'paused')
if (h[1] == 'WAITING' or h[1] == 'PAUSED') and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence) or miscounted(journal, h[3], k)
if no then return no end
local due = redis.call('LLEN', journal) == tonumber(seen) and moment(wake) or now_ms()
redis.call('RPUSH', journal, failure)
drop(stream, entry)
redis.call('HDEL', head, 'at')
if k ~= '0' then redis.call('HDEL', head, 'losses', 'lost') end
redis.call('HSET', head, 'status', resting(head, journal, h[5]), 'reason', 'RETRY', 'wake', due)
rearm(head, timers, id)
if h[4] then redis.call('PUBLISH', h[4], id .. '+') end
return 'OK'
