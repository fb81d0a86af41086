-- Removes all that a finished intent still has: its keys and its place in a view.
local function remove(id, views, ...)
  redis.call('UNLINK', ...)
  for _, view in ipairs(views) do redis.call('ZREM', view, id) end
end
