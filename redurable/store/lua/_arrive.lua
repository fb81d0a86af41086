-- Appends what came from outside to an open intent's journal, tells its owner, and continues it if it waits for that
-- (`awaited`). Answers the entry's seq.
local function arrive(keys, id, lane, entry, hints, awaited)
  local h = redis.call('HMGET', keys.head, 'status', 'fence', 'watch', 'attempt')
  local seq = redis.call('RPUSH', keys.journal, entry)
  if h[1] == 'IN_PROGRESS' then
    redis.call('HINCRBY', keys.head, 'base', 1)
    redis.call('PUBLISH', hints .. h[2]:match('^%d+:(.*):%d+$'), id)
  elseif h[1] == 'WAITING' and awaited then
    redis.call('HDEL', keys.head, 'wake', 'reason')
    redis.call('HSET', keys.head, 'status', 'SUBMITTED',
      'at', enqueue(keys.continuation, keys.streams, lane, id))
    rearm(keys.head, keys.timers, id)
  elseif not h[4] then
    redis.call('HSET', keys.head, 'attempt', 0) -- the first claim finds a journal
  end
  if h[3] then redis.call('PUBLISH', h[3], id .. '+') end
  return seq
end
