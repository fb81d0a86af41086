-- Writes how an intent ended and tells its waiters. `channels` is the prefix of result channels; `told`, if the caller
-- has read them, the head's fields named in TOLD. What an intent owes others when it ends (its outcome to the parent that
-- `reply` names, a cancel to its children) is a timer of it, so that somebody sees to it whoever dies; see `relayed`.
local TOLD = {'reply', 'watch', 'deadline', 'wake', 'start', 'cursors', 'owes'}
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
  local parent = told[1] and told[1]:sub(1, 1) == '^'
  redis.call('HDEL', head, 'at', 'base', parent and 'at' or 'reply', 'watch', 'wake', 'start', 'reason', 'cursors',
    'paused')
  local seen = together('ZADD', keys.view)
  seen[#seen + 1] = now_ms() + keep
  seen[#seen + 1] = id
  if parent or told[7] then
    rearm(head, keys.timers, id)
  elseif told[3] or told[4] or told[5] then
    redis.call('ZREM', keys.timers, id)
  end
  if told[6] then redis.call('DEL', keys.cursors) end
  local message = id .. (#result <= 16384 and result or '?')
  if told[1] and told[1] ~= '' and not parent then redis.call('PUBLISH', channels .. told[1], message) end
  if told[2] then redis.call('PUBLISH', told[2], message) end
end
