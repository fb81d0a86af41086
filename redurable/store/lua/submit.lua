-- submit: none -> SUBMITTED
-- Stores an intent and makes it deliverable. Sent twice, or with a used idempotency key: the first stands.
-- by     client
-- keys   head envelope stream streams timers
-- args   id body queue lane reply digest deadline max
-- reply  OK | EXISTS | CONFLICT
-- uses   enqueue rearm
local old = redis.call('HMGET', head, 'status', 'digest')
if old[1] then
  if digest ~= '' and old[2] ~= digest then return 'CONFLICT' end
  return 'EXISTS'
end
local at = enqueue(stream, streams, lane, id)
redis.call('SET', envelope, body)
redis.call('HSET', head, 'status', 'SUBMITTED', 'queue', queue, 'created', at_ms(), 'at', at, 'reply', reply)
if digest ~= '' then redis.call('HSET', head, 'digest', digest) end
if max ~= '' then redis.call('HSET', head, 'max', max) end
if deadline ~= '' then
  redis.call('HSET', head, 'deadline', moment(deadline))
  rearm(head, timers, id)
end
return 'OK'
