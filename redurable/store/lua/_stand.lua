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
  if place == '' then
    local last = redis.call('ZRANGE', keys.line, -1, -1, 'WITHSCORES')
    place = string.format('%.0f', math.max(last[2] + 1, now_us()))
  end
  redis.call('ZADD', keys.line, place, id)
  redis.call('HSET', keys.head, 'status', 'CREATED', 'place', place, 'lane', lane)
  return 'QUEUED'
end
