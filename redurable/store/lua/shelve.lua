-- shelve: IN_PROGRESS -> WAITING | PAUSED
-- Puts down, until `wake`, what its owner has no handler for, or cannot go on with, as if it had not been claimed: no
-- attempt is counted and no entry is left. Refused when the journal holds more than the owner has seen.
-- by     owner
-- keys   head journal timers stream
-- args   id fence seen entry reason wake
-- reply  OK | NEWS | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rearm rest
local h = redis.call('HMGET', head, 'status', 'fence', 'attempt', 'watch', 'paused')
if (h[1] == 'WAITING' or h[1] == 'PAUSED') and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence)
if no then return no end
if redis.call('LLEN', journal) ~= tonumber(seen) then return 'NEWS' end
drop(stream, entry)
redis.call('HDEL', head, 'at')
-- what `claim` wrote, if nothing has come after it: `Claimed` ends with the epoch
local epoch, last = fence:match('^%d+'), redis.call('LINDEX', journal, -1)
if last and last:sub(1, 2) == '\149\6' and last:sub(-#epoch) == epoch then redis.call('RPOP', journal) end
local attempt = tonumber(h[3]) - 1
if attempt == 0 and redis.call('EXISTS', journal) == 0 then
  redis.call('HDEL', head, 'attempt', 'started')
else
  redis.call('HSET', head, 'attempt', attempt)
end
redis.call('HSET', head, 'status', resting(head, journal, h[5]), 'reason', reason, 'wake', moment(wake))
rearm(head, timers, id)
if h[4] then redis.call('PUBLISH', h[4], id .. '+') end
return 'OK'
