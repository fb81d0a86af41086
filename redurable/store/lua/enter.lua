-- enter: none -> CREATED | SUBMITTED
-- Stores an intent of a session. It is deliverable if the session is free, else it waits in line; with `start` it
-- takes its place when that is due. `busy` says what is wanted of a session that is not free, `most` how many may wait.
-- by     client
-- keys   head envelope stream streams timers line state
-- args   id body queue lane reply digest deadline max start session busy most
-- reply  OK | QUEUED | EXISTS | CONFLICT | BUSY | FULL
-- uses   enqueue rearm stand
local old = redis.call('HMGET', head, 'status', 'digest')
if old[1] then
  if digest ~= '' and old[2] ~= digest then return 'CONFLICT' end
  return 'EXISTS'
end
local length = start == '' and redis.call('ZCARD', line) or 0
if length > 0 and busy == 'reject' then return 'BUSY' end
if most ~= '' and length > tonumber(most) then return 'FULL' end
redis.call('SET', envelope, body)
redis.call('HSET', head, 'queue', queue, 'created', at_ms(), 'reply', reply, 'session', session)
if digest ~= '' then redis.call('HSET', head, 'digest', digest) end
if max ~= '' then redis.call('HSET', head, 'max', max) end
if deadline ~= '' then redis.call('HSET', head, 'deadline', moment(deadline)) end
local word = 'QUEUED'
if start ~= '' then
  redis.call('HSET', head, 'status', 'CREATED', 'lane', lane, 'start', moment(start))
else
  word = stand({head = head, line = line, state = state, stream = stream, streams = streams}, id, lane, '')
  if length > 0 and busy ~= '' then redis.call('HSET', head, 'busy', busy) end
end
if start ~= '' or deadline ~= '' then rearm(head, timers, id) end
return word
