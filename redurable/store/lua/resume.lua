-- resume: PAUSED | CREATED | IN_PROGRESS -> SUBMITTED | CREATED | WAITING | IN_PROGRESS
-- Lets a paused intent go on where it was: it waits again, its timers kept, unless something came meanwhile. `back` is
-- `paused` of its head as the caller read it; what is deliverable goes to `lane`.
-- by     client
-- keys   head journal stream streams timers
-- args   id back lane
-- reply  OK | AGAIN | WRONG_STATE | NOT_FOUND
-- uses   enqueue rearm
local h = redis.call('HMGET', head, 'status', 'paused', 'lane')
if not h[1] then return 'NOT_FOUND' end
if ended(h[1]) then return 'WRONG_STATE' end
if h[1] == 'PAUSED' and h[2] ~= back then return 'AGAIN' end
if h[1] == 'IN_PROGRESS' then redis.call('HDEL', head, 'paused') end
if h[1] == 'CREATED' and h[3] and h[3]:sub(1, 1) == '!' then redis.call('HSET', head, 'lane', h[3]:sub(2)) end
if h[1] ~= 'PAUSED' then return 'OK' end
redis.call('HDEL', head, 'paused')
local to, length = back:match('^(%u+):?(.*)$')
if to == 'CREATED' or (to == 'WAITING' and redis.call('LLEN', journal) == tonumber(length)) then
  redis.call('HSET', head, 'status', to)
else
  redis.call('HDEL', head, 'wake', 'reason')
  redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(stream, streams, lane, id))
end
rearm(head, timers, id)
return 'OK'
