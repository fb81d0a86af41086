-- vacate: any -> any
-- Gives the places back that `fence` has at `place` of the limits `ids`; who is `gone` waits there no more. What is
-- `unused` ('' = nothing) is not counted any more.
-- by     worker
-- keys   head limits timers streams
-- args   place fence unused gone prefix hints ids*
-- reply  OK
-- flags  allow-oom
-- uses   enqueue rearm limit
local env = {prefix = prefix, hints = hints, limits = limits, timers = timers, streams = streams}
local owns = gone == '1' and redis.call('HGET', head, 'fence') == fence
for _, id in ipairs(ids) do
  local limit = limit_of(prefix, id)
  local holder = redis.call('HGET', limit.book, place)
  if holder == fence or (owns and not holder) then
    redis.call('ZREM', limit.used, place)
    redis.call('HDEL', limit.book, place)
  end
  if owns then redis.call('ZREM', limit.line, place) end
  if unused ~= '' then redis.call('ZREM', limit.window, place .. '|' .. unused) end
  hand_on(limit, env, '')
end
return 'OK'
