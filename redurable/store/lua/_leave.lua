-- Sessions: a line is a zset of ids, 0 = holds the session, else its place. `session` is what the caller read of it:
-- `id` is next in line ('' = nobody), `heir` its head, `lane` and `stream` where it goes.
-- Is next in line, of what `id` holds, another than the caller read?
local function moved(session, id)
  if redis.call('ZSCORE', session.line, id) ~= '0' then return false end
  if (redis.call('ZRANGE', session.line, 1, 1)[1] or '') ~= session.id then return true end
  return session.id ~= '' and (redis.call('HGET', session.heir, 'lane') or '') ~= session.lane
end
-- Takes `id` out of its line; what it held goes to the next. The state of a session without intents is kept for the
-- time that its field '' tells.
local function leave(session, id)
  local held = redis.call('ZSCORE', session.line, id) == '0'
  redis.call('ZREM', session.line, id)
  if held and session.lane ~= '' then
    redis.call('ZADD', session.line, 0, session.id)
    admit(session.heir, session.stream, session.streams, session.lane, session.id)
  elseif held and session.id ~= '' then
    redis.call('ZREM', session.line, session.id) -- its head is gone
  end
  local keep = redis.call('EXISTS', session.line) == 0 and redis.call('HGET', session.state, '')
  if keep then redis.call('PEXPIRE', session.state, keep) end
end
