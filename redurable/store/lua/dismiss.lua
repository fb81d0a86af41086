-- dismiss: any -> any
-- Removes a worker's consumer from a stream, unless it still has pending entries (they would be lost with it).
-- by     worker
-- keys   stream
-- args   worker
-- reply  OK | BUSY
-- flags  allow-oom
local pending = redis.pcall('XPENDING', stream, 'rd', '-', '+', 1, worker)
if pending.err then return 'OK' end
if #pending > 0 then return 'BUSY' end
redis.call('XGROUP', 'DELCONSUMER', stream, 'rd', worker)
return 'OK'
