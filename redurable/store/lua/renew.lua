-- renew: IN_PROGRESS -> IN_PROGRESS
-- Resets the idle time of the owner's pending entry, and tells it if more came from outside than it has seen (`base`).
-- An owner that was taken for dead takes its loss back.
-- by     owner
-- keys   head stream
-- args   fence entry worker base
-- reply  OK | NEWS | LOST
-- flags  allow-oom
local h = redis.call('HMGET', head, 'status', 'fence', 'lost', 'base')
if h[1] == 'IN_PROGRESS' and h[2] == fence then
  redis.call('XCLAIM', stream, 'rd', worker, 0, entry, 'IDLE', 0, 'FORCE', 'JUSTID')
  return h[4] == base and 'OK' or 'NEWS'
end
if h[3] == fence then
  redis.call('HDEL', head, 'lost')
  redis.call('HINCRBY', head, 'losses', -1)
end
return 'LOST'
