-- promote: any -> any
-- Makes a known version the current one of its queue until another is promoted; '' = the newest is again.
-- by     client
-- keys   versions timers
-- args   queue version
-- reply  OK | NOT_FOUND
-- flags  allow-oom
if redis.call('HEXISTS', versions, version == '' and queue or queue .. '/' .. version) == 0 then return 'NOT_FOUND' end
if version == '' then
  redis.call('HDEL', versions, queue .. '/')
else
  redis.call('HSET', versions, queue .. '/', version)
end
redis.call('PUBLISH', timers, 'queues')
return 'OK'
