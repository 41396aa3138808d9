-- Where a producer goes on: the next offset of its origin, which is made where there is none.
-- KEYS: meta, origins
-- ARGV: origin, start
-- Returns the next offset, as text
known(KEYS[1])
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 then return ARGV[2] end
local next = string.match(redis.call('HGET', KEYS[2], ARGV[1]), '^(%d+)')
if not next then stop(KEYS[2] .. ' holds what is not ours') end
return next
