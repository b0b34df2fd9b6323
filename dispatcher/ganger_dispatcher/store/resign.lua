-- Invariant: only the holder can end its own lease early; the epoch stays.
--
-- KEYS[1]  the leader hash
-- ARGV     dispatcher id
if redis.call('HGET', KEYS[1], 'dispatcher') == ARGV[1] then
    redis.call('HSET', KEYS[1], 'lease_end', '0')
    return 1
end
return 0
