-- occupy: IN_PROGRESS -> IN_PROGRESS
-- Takes a place of each limit that is `wanted` (id, concurrency, rate, us, ...; '' = none), or of none of them, and
-- stands in line at the first that is full; answers which that is. A rate counts `ask` ('' = nothing), for `slack` us
-- longer than its time, since it may begin so much later.
-- by     owner
-- keys   head limits timers streams
-- args   id fence place ask slack prefix hints wanted*
-- reply  OK | index | FENCED | WRONG_STATE | NOT_FOUND
-- uses   enqueue rearm limit
local h = redis.call('HMGET', head, 'status', 'fence', 'created')
local no = refused(h[1], h[2], fence)
if no then return no end
local env = {prefix = prefix, hints = hints, limits = limits, timers = timers, streams = streams}
local call = place .. '|' .. ask

-- Is a place of it kept for us?
local function admits(limit, concurrency, rate, per)
  local book = redis.call('HMGET', limit.book, 'concurrency', 'rate', place, 'per')
  if (book[1] or '') ~= concurrency or (book[2] or '') ~= rate or (book[4] or '') ~= per then
    redis.call('HDEL', limit.book, 'concurrency', 'rate', 'per')
    if concurrency ~= '' then redis.call('HSET', limit.book, 'concurrency', concurrency) end
    if rate ~= '' then redis.call('HSET', limit.book, 'rate', rate, 'per', per) end
  end
  redis.call('SADD', limits, limit.id)
  if rate ~= '' and ask ~= '' then
    if redis.call('ZSCORE', limit.window, call) then return true end -- sent twice
    if book[3] then -- an attempt was lost that had the place: what it begins again is counted again
      redis.call('ZREM', limit.used, place)
      redis.call('HDEL', limit.book, place)
    end
  end
  local kept = tonumber(redis.call('ZSCORE', limit.used, place) or nil)
  if kept and (kept == 0 or kept > now_ms()) then return true end
  redis.call('ZADD', limit.line, h[3], place)
  hand_on(limit, env, place)
  kept = redis.call('ZSCORE', limit.used, place)
  return kept
end
local mine = {}
for i = 1, #wanted, 4 do
  local limit = limit_of(prefix, wanted[i])
  if not admits(limit, wanted[i + 1], wanted[i + 2], wanted[i + 3]) then
    for _, other in ipairs(mine) do
      redis.call('ZREM', other.used, place)
      redis.call('HDEL', other.book, place)
      hand_on(other, env, place)
    end
    return (i + 3) / 4
  end
  mine[#mine + 1] = limit
end
for i, limit in ipairs(mine) do
  redis.call('ZREM', limit.line, place)
  if wanted[i * 4 - 2] == '' then
    redis.call('ZREM', limit.used, place)
  else
    redis.call('ZADD', limit.used, 0, place)
    redis.call('HSET', limit.book, place, fence)
  end
  if wanted[i * 4 - 1] ~= '' and ask ~= '' then
    redis.call('ZADD', limit.window, 'NX', now_us() + wanted[i * 4] + slack, call)
  end
  hand_on(limit, env, place)
end
return 'OK'
