-- Where an intent goes that an attempt gave up: it waits, or is deliverable again; PAUSED, if that was asked meanwhile
-- (`paused` of its head). Then `paused` says what it is resumed to: WAITING:<length of its journal>, SUBMITTED:<lane>.
local function resting(head, journal, paused)
  if not paused then return 'WAITING' end
  redis.call('HSET', head, 'paused', 'WAITING:' .. redis.call('LLEN', journal))
  return 'PAUSED'
end
local function requeue(head, paused, stream, streams, lane, id)
  if not paused then
    return redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(stream, streams, lane, id))
  end
  redis.call('HDEL', head, 'at')
  redis.call('HSET', head, 'status', 'PAUSED', 'paused', 'SUBMITTED:' .. lane)
end
