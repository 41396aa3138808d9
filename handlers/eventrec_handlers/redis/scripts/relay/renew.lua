-- Let a lease last so long from now on, or end it.
-- KEYS: lease
-- ARGV: token, milliseconds or ''
-- Returns whether it was still the lease
if not holds(KEYS[1], ARGV[1]) then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'until', text(clock() + ARGV[2]), 'for', ARGV[2])
end
return 1
