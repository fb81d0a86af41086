-- Writes what the holder of a session last wrote to each name of its state: (number of the write, name, value; '' =
-- none). Writes that an earlier park stored, made again by a replay, are passed over: others may have come after.
local function save(session, head)
  local writes = session.writes
  if #writes == 0 then return end
  local kept, last = tonumber(redis.call('HGET', head, 'kept') or 0), 0
  for i = 1, #writes, 3 do
    local number = tonumber(writes[i])
    if number > kept then
      if writes[i + 2] == '' then
        redis.call('HDEL', session.state, writes[i + 1])
      else
        redis.call('HSET', session.state, writes[i + 1], writes[i + 2])
      end
    end
    last = math.max(last, number)
  end
  if last <= kept then return end
  redis.call('HSET', head, 'kept', last)
  redis.call('HSET', session.state, '', session.retention)
  if redis.call('HLEN', session.state) == 1 then redis.call('DEL', session.state) end
end
