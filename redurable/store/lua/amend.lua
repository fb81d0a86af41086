-- amend: any -> any
-- An operator writes a session's state, '' = deletes. Refused while the session has intents, unless `force` is 1.
-- by     client
-- keys   line state
-- args   name value retention force
-- reply  OK | BUSY
local busy = redis.call('EXISTS', line) == 1
if busy and force ~= '1' then return 'BUSY' end
if value == '' then
  redis.call('HDEL', state, name)
else
  redis.call('HSET', state, name, value)
  redis.call('HSETNX', state, '', retention)
end
if redis.call('HLEN', state) == 1 then redis.call('DEL', state) end
if not busy then redis.call('PEXPIRE', state, redis.call('HGET', state, '') or 0) end
return 'OK'
