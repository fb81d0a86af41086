-- renew: IN_PROGRESS -> IN_PROGRESS
-- Resets the idle time of the owner's pending entry, and tells it what it may have missed: that an operator wants the
-- intent PAUSED, or that more came from outside than it has seen (`base`). An owner that was taken for dead takes its
-- loss back.
-- by     owner
-- keys   head stream
-- args   fence entry worker base
-- reply  OK | NEWS | PAUSED | LOST
-- flags  allow-oom
local h = redis.call('HMGET', head, 'status', 'fence', 'lost', 'base', 'paused')
if h[1] == 'IN_PROGRESS' and h[2] == fence then
  redis.call('XCLAIM', stream, 'rd', worker, 0, entry, 'IDLE', 0, 'FORCE', 'JUSTID')
  if h[5] then return 'PAUSED' end
  return h[4] == base and 'OK' or 'NEWS'
end
if h[3] == fence then
  redis.call('HDEL', head, 'lost')
  redis.call('HINCRBY', head, 'losses', -1)
end
return 'LOST'
