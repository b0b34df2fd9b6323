-- Invariant: at most one dispatcher holds an unexpired lease, and whenever the holder
-- changes the epoch rises. Time is the server's own, so clocks need not agree.
--
-- KEYS[1]  the leader hash
-- ARGV     dispatcher id, lease in ms
-- Returns {epoch, 0} to the holder, {0, ms until the lease ends} to anybody else.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local holder = redis.call('HMGET', KEYS[1], 'dispatcher', 'epoch', 'lease_end')
local epoch, lease_end = tonumber(holder[2]) or 0, tonumber(holder[3]) or 0
if holder[1] ~= ARGV[1] then
    if lease_end > now then
        return {0, lease_end - now}
    end
    epoch = epoch + 1
end
-- as text: Lua would write a large number in scientific notation
redis.call('HSET', KEYS[1], 'dispatcher', ARGV[1], 'epoch', string.format('%d', epoch),
    'lease_end', string.format('%d', now + ARGV[2]))
return {epoch, 0}
