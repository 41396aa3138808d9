-- All that is known of the logs.
-- KEYS: meta
-- ARGV: none
-- Returns '' where there is no shard; else fields and values of meta, and which life of the server this is
if not known(KEYS[1]) then return '' end
return {redis.call('HGETALL', KEYS[1]), run_id()}
