-- Brings a cancel or a passed deadline to an open intent. One that never ran ends at once; another finds `entry`
-- in its journal. `at` is what the caller read; the caller's `stream` belongs to it.
local function interrupt(keys, id, at, lane, status, entry, result, keep, channels, hints)
  local h = redis.call('HMGET', keys.head, 'status', 'attempt', 'at', 'canceling')
  if not h[1] then return 'NOT_FOUND' end
  if ended(h[1]) then return h[1] end
  if h[4] then return 'REQUESTED' end
  if (h[3] or '') ~= at then return 'AGAIN' end
  if h[1] == 'CREATED' or (h[2] or '0') == '0' then
    if moved(keys.session, id) then return 'AGAIN' end -- session
    if h[3] then drop(keys.stream, h[3]:match('/(.*)$')) end
    finish(keys, id, status, result, keep, channels)
    leave(keys.session, id) -- session
    return status
  end
  redis.call('HSET', keys.head, 'canceling', status)
  redis.call('HDEL', keys.head, 'deadline')
  arrive(keys, id, lane, entry, hints, true)
  rearm(keys.head, keys.timers, id)
  return 'REQUESTED'
end
