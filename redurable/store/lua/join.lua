-- join: CREATED -> CREATED | SUBMITTED
-- Gives a delayed intent of a session, whose start is due, its place in line; it holds the session if that is free.
-- by     worker
-- keys   head stream streams timers line state
-- args   id lane
-- reply  OK | QUEUED | EARLY | STALE
-- flags  allow-oom
-- uses   enqueue rearm stand
local h = redis.call('HMGET', head, 'status', 'start')
if h[1] ~= 'CREATED' or not h[2] then
  if h[1] then rearm(head, timers, id) else redis.call('ZREM', timers, id) end
  return 'STALE'
end
if tonumber(h[2]) > now_ms() then
  rearm(head, timers, id)
  return 'EARLY'
end
redis.call('HDEL', head, 'start')
local word = stand({head = head, line = line, state = state, stream = stream, streams = streams}, id, lane, '')
rearm(head, timers, id)
return word
