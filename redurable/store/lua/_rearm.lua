-- Sets an intent's one timer to the earliest of its head's times, to none if it has ended; tells the workers if it
-- is now the first of all.
local function rearm(head, timers, id)
  local times, due = redis.call('HMGET', head, 'deadline', 'start', 'wake', 'status'), nil
  for i = 1, 3 do
    local at = tonumber(times[i] or nil)
    if at and (not due or at < due) then due = at end
  end
  if not due or ended(times[4]) then return redis.call('ZREM', timers, id) end
  redis.call('ZADD', timers, due, id)
  if redis.call('ZRANK', timers, id) == 0 then redis.call('PUBLISH', timers, string.format('%.0f', due)) end
end
