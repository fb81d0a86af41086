-- Sets an intent's one timer to the earliest of its head's times; of one that has ended, to the time by which it has
-- to have done what it owes, or to none; of a paused one to none. Tells the workers if it is now the first of all.
local function rearm(head, timers, id)
  local times, due = redis.call('HMGET', head, 'deadline', 'start', 'wake', 'status', 'reply', 'owes'), nil
  for i = 1, 3 do
    local at = tonumber(times[i] or nil)
    if at and (not due or at < due) then due = at end
  end
  if ended(times[4]) then
    due = (times[6] or (times[5] or ''):sub(1, 1) == '^') and now_ms() + 1000 or nil
  end
  if not due or times[4] == 'PAUSED' then return redis.call('ZREM', timers, id) end
  redis.call('ZADD', timers, due, id)
  if redis.call('ZRANK', timers, id) == 0 then redis.call('PUBLISH', timers, string.format('%.0f', due)) end
end
