-- release: IN_PROGRESS -> SUBMITTED | PAUSED
-- Hands the intent back, uncounted.
-- by     owner
-- keys   head journal stream continuation streams
-- args   id fence entry lane
-- reply  OK | FENCED | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   enqueue rest
local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'paused')
if (h[1] == 'SUBMITTED' or h[1] == 'PAUSED') and h[2] == fence then return 'OK' end
local no = refused(h[1], h[2], fence)
if no then return no end
drop(stream, entry)
if redis.call('LLEN', journal) - h[3] > 0 then redis.call('HDEL', head, 'losses', 'lost') end
requeue(head, h[4], continuation, streams, lane, id)
return 'OK'
