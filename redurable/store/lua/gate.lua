-- gate: any -> any
-- Closes a queue to workers (`closed` is 1), or opens it; they are told on the bulletin.
-- by     client
-- keys   paused
-- args   queue closed bulletin
-- reply  OK
-- flags  allow-oom
if closed == '1' then redis.call('SADD', paused, queue) else redis.call('SREM', paused, queue) end
redis.call('PUBLISH', bulletin, 'queues')
return 'OK'
