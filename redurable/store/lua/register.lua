-- register: any -> any
-- Keeps what a worker says of itself; also on a full server, whose workers must not be taken for dead.
-- by     worker
-- keys   workers
-- args   worker description
-- reply  OK
-- flags  allow-oom
redis.call('HSET', workers, worker, description)
return 'OK'
