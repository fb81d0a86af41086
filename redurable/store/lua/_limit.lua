-- Limits. A place is `<intent>|<call>`: of a handler (its call is ''), or of one call of a step. Of a limit, `used` says
-- who has a place (0; the fence is in the `book`), and until when (ms) one is kept for who was called up, or may still
-- be at work though it lost its intent; `line` who waits, by age; `window` what the rate counts, until when (us).
local KEPT, LOOK, IDLE = 10000, 5000, 60000
local function limit_of(prefix, id)
  return {id = id, book = prefix .. 'l:' .. id, used = prefix .. 'lu:' .. id, line = prefix .. 'll:' .. id,
    window = prefix .. 'lw:' .. id}
end
-- Whether who waits at `place` still does; then it is told, or made deliverable.
local function call_up(env, place, me)
  local id = place:match('^[^|]+')
  local head = env.prefix .. 'i:' .. id
  local h = redis.call('HMGET', head, 'status', 'reason', 'fence', 'queue', 'version')
  if h[1] == 'IN_PROGRESS' then
    if place ~= me then redis.call('PUBLISH', env.hints .. h[3]:match('^%d+:(.*):%d+$'), '+' .. id) end
    return true
  end
  if h[1] ~= 'WAITING' or h[2] ~= 'LIMIT' then return false end -- it asks again when it goes on
  local lane = 'c:' .. (h[5] and h[5] ~= '' and h[5] or '-')
  redis.call('HDEL', head, 'wake', 'reason')
  redis.call('HSET', head, 'status', 'SUBMITTED',
    'at', enqueue(env.prefix .. 'c:' .. h[4] .. lane:sub(2), env.streams, lane, id))
  rearm(head, env.timers, id)
  return true
end
-- Keeps what is free for the first in line, calls them up, and sees to it that the limit is looked at again.
local function hand_on(limit, env, me)
  local now = now_ms()
  for _, place in ipairs(redis.call('ZRANGEBYSCORE', limit.used, 1, now)) do
    redis.call('ZREM', limit.used, place)
    redis.call('HDEL', limit.book, place)
  end
  redis.call('ZREMRANGEBYSCORE', limit.window, '-inf', now_us())
  local most = redis.call('HMGET', limit.book, 'concurrency', 'rate')
  local used, counted = redis.call('ZCARD', limit.used), redis.call('ZCARD', limit.window)
  local free = most[1] and most[1] - used or math.huge
  local full, places = false, free > 0
  if most[2] then
    local left = most[2] - counted - redis.call('ZCOUNT', limit.used, 1, '+inf')
    free, full = math.min(free, left), places and left <= 0
  end
  -- some more than there is room for: of those in line some may be gone
  local first = free > 0 and redis.call('ZRANGE', limit.line, 0, math.min(free + 9, 199)) or {}
  for _, place in ipairs(first) do
    if free <= 0 then break end
    redis.call('ZREM', limit.line, place)
    if call_up(env, place, me) then
      redis.call('ZADD', limit.used, now + KEPT, place)
      free, used = free - 1, used + 1
    end
  end
  local due
  if redis.call('EXISTS', limit.line) == 1 then
    due = free > 0 and now + 1 or now + LOOK
    local next_us = full and redis.call('ZRANGE', limit.window, 0, 0, 'WITHSCORES')[2]
    if next_us then due = math.min(due, math.floor(next_us / 1000) + 1) end
  elseif used + counted > 0 then
    due = now + IDLE
  end
  local member = '~' .. limit.id
  if not due then
    redis.call('ZREM', env.timers, member)
    redis.call('SREM', env.limits, limit.id)
    return redis.call('DEL', limit.book)
  end
  local set = tonumber(redis.call('ZSCORE', env.timers, member) or nil)
  if set and set > now and set <= due then return end
  redis.call('ZADD', env.timers, due, member)
  if redis.call('ZRANK', env.timers, member) == 0 then
    redis.call('PUBLISH', env.timers, string.format('%.0f', due))
  end
end
