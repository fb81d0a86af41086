-- heed: any -> any
-- Says that a `child` of an open intent has told how far it is: it counts in the parent's progress, and whoever watches
-- the parent looks again.
-- by     worker
-- keys   head marks
-- args   id child
-- reply  OK | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'watch')
if not h[1] then return 'NOT_FOUND' end
if ended(h[1]) then return 'WRONG_STATE' end
local known = redis.call('HGET', marks, 'c') or ''
if #known < 36000 and not known:find(child, 1, true) then redis.call('HSET', marks, 'c', known .. child) end
if h[2] then redis.call('PUBLISH', h[2], id .. '+') end
return 'OK'
