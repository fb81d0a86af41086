-- wake: WAITING -> SUBMITTED
-- Continues a waiting intent now, whatever it waits for.
-- by     client
-- keys   head continuation streams timers
-- args   id lane
-- reply  OK | WRONG_STATE | NOT_FOUND
-- uses   enqueue rearm
local status = redis.call('HGET', head, 'status')
if not status then return 'NOT_FOUND' end
if status == 'SUBMITTED' then return 'OK' end
if status ~= 'WAITING' then return 'WRONG_STATE' end
redis.call('HDEL', head, 'wake', 'reason')
redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(continuation, streams, lane, id))
rearm(head, timers, id)
return 'OK'
