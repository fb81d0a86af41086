-- expire: CREATED | SUBMITTED | WAITING | PAUSED -> TIMED_OUT | SUBMITTED
-- Acts on a passed deadline: an intent that never ran ends, another finds `entry` at its place in the journal.
-- by     worker
-- keys   head journal stream continuation streams outcome view timers cursors
-- args   id at lane entry result keep channels hints
-- with   session
-- reply  TIMED_OUT | REQUESTED | EARLY | AGAIN | NOT_FOUND | COMPLETED | FAILED | CANCELED
-- flags  allow-oom
-- uses   enqueue rearm arrive admit leave finish interrupt
local status, canceling, deadline = unpack(redis.call('HMGET', head, 'status', 'canceling', 'deadline'))
if not status then
  redis.call('ZREM', timers, id)
  return 'NOT_FOUND'
end
if ended(status) or canceling then
  rearm(head, timers, id)
  return canceling and not ended(status) and 'REQUESTED' or status
end
if not deadline or tonumber(deadline) > now_ms() then
  rearm(head, timers, id)
  return 'EARLY'
end
return interrupt(
  {head = head, journal = journal, stream = stream, continuation = continuation, streams = streams,
   session = session, -- session
   outcome = outcome, view = view, timers = timers, cursors = cursors},
  id, at, lane, 'TIMED_OUT', entry, result, keep, channels, hints)
