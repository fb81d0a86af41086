-- Writes how an intent ended and tells its waiters. `channels` is the prefix of result channels; `told`, if the caller
-- has read them, the head's fields named in TOLD.
local TOLD = {'reply', 'watch', 'deadline', 'wake', 'start', 'cursors'}
local function finish(keys, id, status, result, keep, channels, told)
  local head = keys.head
  told = told or redis.call('HMGET', head, unpack(TOLD))
  -- a short outcome lives in the head: a key of its own costs 120 bytes and a command
  if #result <= 60 then
    redis.call('HSET', head, 'status', status, 'finished', at_ms(), 'outcome', result)
  else
    redis.call('HSET', head, 'status', status, 'finished', at_ms())
    redis.call('SET', keys.outcome, result)
  end
  redis.call('HDEL', head, 'at', 'base', 'reply', 'watch', 'wake', 'start', 'reason', 'cursors')
  redis.call('ZADD', keys.view, now_ms() + keep, id)
  if told[3] or told[4] or told[5] then redis.call('ZREM', keys.timers, id) end
  if told[6] then redis.call('DEL', keys.cursors) end
  local message = id .. (#result <= 16384 and result or '?')
  if told[1] and told[1] ~= '' then redis.call('PUBLISH', channels .. told[1], message) end
  if told[2] then redis.call('PUBLISH', told[2], message) end
end
