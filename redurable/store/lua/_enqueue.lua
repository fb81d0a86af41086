-- Adds an intent's entry to a stream; answers its `at`.
local known = {}
local function enqueue(stream, streams, lane, id)
  if not known[stream] then
    if redis.call('EXISTS', stream) == 0 then redis.call('SADD', streams, stream) end
    known[stream] = true
  end
  return lane .. '/' .. redis.call('XADD', stream, '*', 'i', id)
end
