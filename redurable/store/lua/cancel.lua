-- cancel: CREATED | SUBMITTED | WAITING | PAUSED -> CANCELED | SUBMITTED
-- Asks an intent to end: one that never ran ends at once, another finds `entry` at its place in the journal.
-- by     client
-- keys   head journal stream continuation streams outcome view timers cursors
-- args   id at lane entry result keep channels hints
-- with   session
-- reply  CANCELED | REQUESTED | AGAIN | NOT_FOUND | COMPLETED | FAILED | TIMED_OUT
-- flags  allow-oom
-- uses   enqueue rearm arrive admit leave finish interrupt
return interrupt(
  {head = head, journal = journal, stream = stream, continuation = continuation, streams = streams,
   session = session, -- session
   outcome = outcome, view = view, timers = timers, cursors = cursors},
  id, at, lane, 'CANCELED', entry, result, keep, channels, hints)
