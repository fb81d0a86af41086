-- pause: CREATED | SUBMITTED | IN_PROGRESS | WAITING -> PAUSED | CREATED | IN_PROGRESS
-- Keeps an open intent from going on until it is resumed; what comes meanwhile is kept. `paused` in its head says what
-- it is resumed to. One that runs is handed back by its owner, who is told; one in line keeps its place (`!` before its
-- lane) and is PAUSED when its turn comes.
-- by     client
-- keys   head journal stream timers
-- args   id at hints
-- reply  PAUSED | REQUESTED | AGAIN | WRONG_STATE | NOT_FOUND
-- flags  allow-oom
-- uses   rearm
local h = redis.call('HMGET', head, 'status', 'at', 'fence', 'paused', 'start', 'lane', 'reason', 'version')
if not h[1] then return 'NOT_FOUND' end
if ended(h[1]) then return 'WRONG_STATE' end
if h[1] == 'PAUSED' then return 'PAUSED' end
if h[1] ~= 'IN_PROGRESS' and (h[2] or '') ~= at then return 'AGAIN' end
if h[1] == 'IN_PROGRESS' then
  if not h[4] then
    redis.call('HSET', head, 'paused', 1)
    redis.call('PUBLISH', hints .. h[3]:match('^%d+:(.*):%d+$'), '|' .. id)
  end
  return 'REQUESTED'
end
if h[1] == 'CREATED' and not h[5] then
  if h[6]:sub(1, 1) ~= '!' then redis.call('HSET', head, 'lane', '!' .. h[6]) end
  return 'PAUSED'
end
local back = h[1]
if back == 'SUBMITTED' then
  local lane, entry = at:match('^(.*)/(.*)$')
  drop(stream, entry)
  redis.call('HDEL', head, 'at')
  back = 'SUBMITTED:' .. lane
elseif h[7] == 'LIMIT' then -- once resumed it asks again
  back = 'SUBMITTED:c:' .. (h[8] and h[8] ~= '' and h[8] or '-')
  redis.call('HDEL', head, 'reason', 'wake')
elseif back == 'WAITING' then
  back = 'WAITING:' .. redis.call('LLEN', journal)
end
redis.call('HSET', head, 'status', 'PAUSED', 'paused', back)
rearm(head, timers, id)
return 'PAUSED'
