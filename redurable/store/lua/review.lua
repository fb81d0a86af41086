-- review: any -> any
-- Looks after a limit when its timer is due: what somebody holds who is dead, or has lost the intent a lease ago, is
-- free, and goes to those who wait.
-- by     worker
-- keys   limits timers streams
-- args   id prefix hints liveness
-- reply  OK | EARLY
-- flags  allow-oom
-- uses   enqueue rearm limit
local due = redis.call('ZSCORE', timers, '~' .. id)
if not due or tonumber(due) > now_ms() then return 'EARLY' end
local limit = limit_of(prefix, id)
local places = redis.call('ZRANGE', limit.used, 0, -1, 'WITHSCORES')
for i = 1, #places, 2 do
  local place, until_ms = places[i], tonumber(places[i + 1])
  local holder = redis.call('HGET', limit.book, place)
  local h = redis.call('HMGET', prefix .. 'i:' .. place:match('^[^|]+'), 'status', 'fence')
  local over = not h[1] or ended(h[1])
  if holder then over = h[1] ~= 'IN_PROGRESS' or h[2] ~= holder end
  if over and (not holder or redis.call('PUBSUB', 'NUMSUB', liveness .. holder:match('^%d+:(.*):%d+$'))[2] == 0) then
    redis.call('ZREM', limit.used, place)
    redis.call('HDEL', limit.book, place)
  elseif over and until_ms == 0 then
    redis.call('ZADD', limit.used, now_ms() + 10000, place) -- a lease
  end
end
hand_on(limit, {prefix = prefix, hints = hints, limits = limits, timers = timers, streams = streams}, '')
return 'OK'
