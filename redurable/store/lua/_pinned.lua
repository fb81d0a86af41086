-- Deployment versions: an intent stays on the version that first claimed it. One that has not begun, or begins a turn
-- (its version is ''), is for the current version of its queue: the promoted one, else the newest.
local function current(versions, queue)
  local found = redis.call('HMGET', versions, queue .. '/', queue)
  return found[1] or found[2]
end
-- Puts what was delivered to a worker of another version where those of `pin` read it; a fresh one stays fresh.
local function reroute(prefix, head, queue, lane, id, pin, begun)
  local to = lane
  if begun then
    to = (lane:sub(1, 7) == 'c:!solo' and 'c:!solo!' or 'c:') .. pin
  elseif lane:sub(1, 1) ~= 'q' then
    to = 'q:normal'
  end
  local stream = prefix .. to:sub(1, 1) .. ':' .. queue .. to:sub(2)
  redis.call('HSET', head, 'at', enqueue(stream, prefix .. 'qs', to, id))
  if to:sub(1, 7) == 'c:!solo' then redis.call('PUBLISH', prefix .. 't', 'solo') end
end
