-- recover: SUBMITTED | IN_PROGRESS -> SUBMITTED | PAUSED | FAILED
-- Takes a pending entry from an owner that is dead: nobody subscribes to its `liveness` channel ('' = not asked), and
-- the entry was idle for `idle` ms. What ran is counted as a loss if `counted`; the second loss makes a suspect (the
-- solo lane); the last allowed one ends it, but only if it ran alone. What was only delivered goes back uncounted.
-- by     worker
-- keys   head journal stream continuation solo streams outcome view timers cursors
-- args   id entry lane owner liveness idle counted continue_lane solo_lane result keep channels
-- with   session
-- reply  OK | SUSPECT | FAILED | AGAIN | ALIVE | GONE | STALE
-- flags  allow-oom
-- uses   enqueue rearm rest admit leave finish
if liveness ~= '' and redis.call('PUBSUB', 'NUMSUB', liveness)[2] > 0 then return 'ALIVE' end
local row = redis.pcall('XPENDING', stream, 'rd', entry, entry, 1)[1]
if not row or row[2] ~= owner then return 'GONE' end
if row[3] < tonumber(idle) then return 'ALIVE' end
local h = redis.call('HMGET', head, 'status', 'at', 'base', 'losses', 'max', 'fence', 'paused')
if h[2] ~= lane .. '/' .. entry or (h[1] ~= 'SUBMITTED' and h[1] ~= 'IN_PROGRESS') then
  drop(stream, entry)
  return 'STALE'
end
if moved(session, id) then return 'AGAIN' end -- session
local losses, reply, to, to_lane = tonumber(h[4] or nil) or 0, 'OK', continuation, continue_lane
local alone = lane:sub(1, 7) == 'c:!solo'
if alone then to, to_lane = solo, solo_lane end
if h[1] == 'IN_PROGRESS' and counted == '1' then
  local max = tonumber(h[5] or nil) or 3
  -- entries of its own since the claim are progress
  if redis.call('LLEN', journal) - h[3] > 0 then
    losses = 0
    redis.call('HDEL', head, 'lost')
  end
  losses = losses + 1
  redis.call('HSET', head, 'losses', losses)
  if losses >= max and (alone or max <= 1) then
    drop(stream, entry)
    finish({head = head, outcome = outcome, view = view, timers = timers, cursors = cursors},
      id, 'FAILED', result, keep, channels)
    leave(session, id) -- session
    return 'FAILED'
  end
  to, to_lane = continuation, continue_lane
  if losses >= 2 or losses >= max - 1 then reply, to, to_lane = 'SUSPECT', solo, solo_lane end
  if liveness ~= '' then redis.call('HSET', head, 'lost', h[6]) end
end
drop(stream, entry)
requeue(head, h[7], to, streams, to_lane, id)
if to == solo then redis.call('PUBLISH', timers, 'solo') end
return reply
