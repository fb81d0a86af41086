-- redrive: FAILED | CANCELED | TIMED_OUT -> SUBMITTED | CREATED
-- An operator's retry: `entry` voids the failures, the rest of the journal is kept. `token` tells a call sent twice.
-- An intent of a session waits for its turn at the place that it had, before all that were sent later.
-- by     client
-- keys   head journal continuation streams outcome view timers
-- args   id seen lane entry token
-- with   session
-- reply  OK | AGAIN | WRONG_STATE | NOT_FOUND
-- uses   enqueue stand
local h = redis.call('HMGET', head, 'status', 'redriven', 'attempt', 'reply', 'place')
if not h[1] then return 'NOT_FOUND' end
if h[2] == token then return 'OK' end
if h[1] == 'COMPLETED' or not ended(h[1]) then return 'WRONG_STATE' end
if redis.call('LLEN', journal) ~= tonumber(seen) then return 'AGAIN' end
redis.call('RPUSH', journal, entry)
redis.call('DEL', outcome)
redis.call('ZREM', view, id)
redis.call('ZREM', timers, id) -- what it owed others, it may owe them again when it ends
redis.call('HDEL', head, 'finished', 'outcome', 'losses', 'lost', 'canceling', 'deadline')
redis.call('HSET', head, 'redriven', token, 'attempt', h[3] or 1)
if h[4] then redis.call('HSET', head, 'reply', (h[4]:gsub('^~', '^'))) end
local to = {head = head, line = session.line, state = session.state} -- session
to.stream, to.streams = continuation, streams -- session
if stand(to, id, lane, h[5] or '') then return 'OK' end -- session
redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(continuation, streams, lane, id))
return 'OK'
