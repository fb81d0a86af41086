-- tick: none -> CREATED | SUBMITTED
-- Fires a schedule: stores the intent `id` of its tick, and puts its timer to the `next`; without a body it only passes
-- over ticks that are missed. By hand (`expected` is '') the next tick stays. `last` is the intent of the firing before
-- as the caller read it; with `skip` it must have ended.
-- by     worker
-- keys   schedule timers previous head envelope stream streams line state
-- args   member revision token expected next wake missed last skip tick id body queue lane deadline max session busy
-- reply  OK | QUEUED | EXISTS | SKIPPED | PASSED | AGAIN | EARLY
-- uses   enqueue rearm stand
local s = redis.call('HMGET', schedule, 'revision', 'token', 'word', 'next', 'wake', 'last')
if s[2] == token then return s[3] end
if s[1] ~= revision or (s[6] or '') ~= last then return 'AGAIN' end
if expected ~= '' then
  if s[4] ~= expected then return 'AGAIN' end
  if tonumber(s[5]) > now_ms() then return 'EARLY' end
end
local reply = 'PASSED'
if body ~= '' then
  local before = skip ~= '' and redis.call('HGET', previous, 'status')
  if before and not ended(before) then
    reply = 'SKIPPED'
  elseif redis.call('EXISTS', head) == 1 then
    reply = 'EXISTS'
  else
    redis.call('SET', envelope, body)
    redis.call('HSET', head, 'queue', queue, 'created', at_ms(), 'reply', '')
    if max ~= '' then redis.call('HSET', head, 'max', max) end
    if session == '' then
      reply = 'OK'
      redis.call('HSET', head, 'status', 'SUBMITTED', 'at', enqueue(stream, streams, lane, id))
    else
      redis.call('HSET', head, 'session', session)
      reply = stand({head = head, line = line, state = state, stream = stream, streams = streams}, id, lane, '')
      if reply == 'QUEUED' and busy ~= '' then
        redis.call('HSET', head, 'busy', busy)
      end
    end
    if deadline ~= '' then
      redis.call('HSET', head, 'deadline', moment(deadline))
      rearm(head, timers, id)
    end
  end
  if reply == 'SKIPPED' then
    redis.call('HINCRBY', schedule, 'skipped', 1)
  else
    redis.call('HINCRBY', schedule, 'fired', 1)
    redis.call('HSET', schedule, 'last', id, 'tick', tick, 'at', at_ms())
  end
end
if missed ~= '0' then redis.call('HINCRBY', schedule, 'missed', missed) end
redis.call('HSET', schedule, 'token', token, 'word', reply)
if expected ~= '' then
  redis.call('HSET', schedule, 'next', next, 'wake', wake)
  rearm(schedule, timers, member)
end
return reply
