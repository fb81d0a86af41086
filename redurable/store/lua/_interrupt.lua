-- Brings a cancel or a passed deadline to an open intent. One that never ran ends at once; another finds `entry`
-- in its journal. `at` is what the caller read; the caller's `stream` belongs to it.
local function interrupt(keys, id, at, lane, status, entry, result, keep, channels, hints)
  local h = redis.call('HMGET', keys.head, 'status', 'attempt', 'at', 'fence', 'canceling', 'watch')
  if not h[1] then return 'NOT_FOUND' end
  if ended(h[1]) then return h[1] end
  if h[5] then return 'REQUESTED' end
  if (h[3] or '') ~= at then return 'AGAIN' end
  if h[1] == 'CREATED' or (h[1] == 'SUBMITTED' and not h[2]) then
    if moved(keys.session, id) then return 'AGAIN' end -- session
    if h[3] then drop(keys.stream, h[3]:match('/(.*)$')) end
    finish(keys, id, status, result, keep, channels)
    leave(keys.session, id) -- session
    return status
  end
  redis.call('RPUSH', keys.journal, entry)
  redis.call('HSET', keys.head, 'canceling', status)
  redis.call('HDEL', keys.head, 'deadline')
  if h[1] == 'IN_PROGRESS' then
    redis.call('HINCRBY', keys.head, 'base', 1)
    redis.call('PUBLISH', hints .. h[4]:match('^%d+:(.*):%d+$'), id)
  elseif h[1] == 'WAITING' then
    redis.call('HDEL', keys.head, 'wake', 'reason')
    redis.call('HSET', keys.head, 'status', 'SUBMITTED',
      'at', enqueue(keys.continuation, keys.streams, lane, id))
  end
  rearm(keys.head, keys.timers, id)
  if h[6] then redis.call('PUBLISH', h[6], id .. '+') end
  return 'REQUESTED'
end
