-- release: IN_PROGRESS -> SUBMITTED
-- Hands the intent back, uncounted.
-- by     owner
-- keys   head journal stream continuation streams
-- args   id fence entry lane
-- reply  OK | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue
local h = redis.call('HMGET', head, 'status', 'fence', 'base')
if h[1] == 'SUBMITTED' and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence)
if no then return no end
drop(stream, entry)
if redis.call('LLEN', journal) - h[3] > 0 then redis.call('HDEL', head, 'losses', 'lost') end
redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(continuation, streams, lane, id))
return 'OK'
