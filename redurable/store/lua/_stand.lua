-- Answers the place at the end of a session's line.
local function hindmost(line)
  local last = redis.call('ZRANGE', line, -1, -1, 'WITHSCORES')
  return string.format('%.0f', math.max((last[2] or 0) + 1, now_us()))
end
-- Puts an intent into its session's line: what is free it holds at once, else it waits at `place` ('' = the end).
local function stand(keys, id, lane, place)
  redis.call('PERSIST', keys.state)
  if redis.call('EXISTS', keys.line) == 0 then
    redis.call('ZADD', keys.line, 0, id)
    if place == '' then place = string.format('%.0f', now_us()) end
    redis.call('HDEL', keys.head, 'lane')
    redis.call('HSET', keys.head, 'status', 'SUBMITTED', 'place', place,
      'at', enqueue(keys.stream, keys.streams, lane, id))
    return 'OK'
  end
  if place == '' then place = hindmost(keys.line) end
  redis.call('ZADD', keys.line, place, id)
  redis.call('HSET', keys.head, 'status', 'CREATED', 'place', place, 'lane', lane)
  return 'QUEUED'
end
