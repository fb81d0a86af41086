-- note: IN_PROGRESS -> IN_PROGRESS
-- Keeps a remark about the run in the head (which steps' code changed), for people who look.
-- by     owner
-- keys   head
-- args   fence name value
-- reply  OK | FENCED | WRONG_STATE | NOT_FOUND
local h = redis.call('HMGET', head, 'status', 'fence')
local no = refused(h[1], h[2], fence)
if no then return no end
redis.call('HSET', head, name, value)
return 'OK'
