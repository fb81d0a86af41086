-- deploy: any -> any
-- Keeps that a version of a queue exists: it is the newest, and so the current one unless another is promoted. One that
-- is known already changes nothing. Also on a full server, which only workers can drain.
-- by     worker
-- keys   versions timers
-- args   queue version
-- reply  OK | KNOWN
-- flags  allow-oom
if redis.call('HSETNX', versions, queue .. '/' .. version, string.format('%.0f', now_us())) == 0 then return 'KNOWN' end
redis.call('HSET', versions, queue, version)
redis.call('PUBLISH', timers, 'queues')
return 'OK'
