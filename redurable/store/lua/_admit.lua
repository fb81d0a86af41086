-- Sessions: the turn of an intent has come that waited in line. One that was paused there (`!` before its lane) holds
-- the session, PAUSED.
local function admit(head, stream, streams, lane, id)
  redis.call('HDEL', head, 'lane', 'busy')
  if lane:sub(1, 1) == '!' then
    redis.call('HSET', head, 'status', 'PAUSED', 'paused', 'SUBMITTED:' .. lane:sub(2))
  else
    redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(stream, streams, lane, id))
  end
end
