-- fire: CREATED | WAITING -> SUBMITTED
-- Makes an intent deliverable whose start or wake is due. `lane` is where the caller, who read the head, would put it.
-- by     worker
-- keys   head stream streams timers
-- args   id lane expected
-- reply  OK | EARLY | AGAIN | STALE
-- flags  allow-oom
-- uses   enqueue rearm
local h = redis.call('HMGET', head, 'status', 'start', 'wake')
local due = tonumber((h[1] == 'CREATED' and h[2]) or (h[1] == 'WAITING' and h[3]) or nil)
if not due then
  if h[1] then rearm(head, timers, id) else redis.call('ZREM', timers, id) end
  return 'STALE'
end
if h[1] ~= expected then return 'AGAIN' end
if due > now_ms() then
  rearm(head, timers, id)
  return 'EARLY'
end
redis.call('HDEL', head, 'start', 'wake', 'reason', 'lane')
redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(stream, streams, lane, id))
rearm(head, timers, id)
return 'OK'
