-- Give a lease, unless another holder has one that has not run out.
-- KEYS: lease, subs, meta
-- ARGV: subscription, holder, milliseconds, chance
-- Returns its token, or false
known(KEYS[3])
expect(KEYS[1], 'hash')
expect(KEYS[2], 'hash')
local now = redis.call('TIME')
local milliseconds = clock()
local held = redis.call('HMGET', KEYS[1], 'holder', 'until', 'for')
if held[1] and held[1] ~= ARGV[2] and tonumber(held[2] or 0) > milliseconds then
  local latest = milliseconds + (held[3] or held[2])
  -- The clock went back: it lasts no longer for that.
  if tonumber(held[2]) > latest then redis.call('HSET', KEYS[1], 'until', text(latest)) end
  return false
end
local token = now[1] .. '.' .. now[2] .. '-' .. ARGV[4]
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'token', token, 'until', text(milliseconds + ARGV[3]),
  'for', ARGV[3])
redis.call('HSETNX', KEYS[2], ARGV[1], text(milliseconds))
return token
