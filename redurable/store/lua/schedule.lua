-- schedule: none -> CREATED
-- Stores an intent that may start at `start`. Sent twice, or with a used idempotency key: the first stands.
-- by     client
-- keys   head envelope timers
-- args   id body queue lane reply digest deadline max start
-- reply  OK | EXISTS | CONFLICT
-- uses   rearm
local old = redis.call('HMGET', head, 'status', 'digest')
if old[1] then
  if digest ~= '' and old[2] ~= digest then return 'CONFLICT' end
  return 'EXISTS'
end
redis.call('SET', envelope, body)
redis.call('HSET', head, 'status', 'CREATED', 'queue', queue, 'created', now_ms(), 'lane', lane,
  'start', moment(start), 'reply', reply)
if digest ~= '' then redis.call('HSET', head, 'digest', digest) end
if max ~= '' then redis.call('HSET', head, 'max', max) end
if deadline ~= '' then redis.call('HSET', head, 'deadline', moment(deadline)) end
rearm(head, timers, id)
return 'OK'
