# Threads with queues and a mutex, a fiber, a child by fork that talks over pipes, garbage, regular expressions.
$stdout.sync = true
steps = Integer(ARGV[0])
jobs, results = Queue.new, Queue.new
total, lock = 0, Mutex.new
workers = Array.new(3) do
  Thread.new do
    while (n = jobs.pop)
      text = (1..60).map { |i| format("%x-%s", n * i % 65_521, "ab".succ * (i % 5)) }.join(" ")
      value = text.scan(/[a-f]+(\d+)/).flatten.sum(&:to_i)
      lock.synchronize { total += value }
      results << [n, value]
    end
  end
end

question, ask = IO.pipe
hear, answer = IO.pipe
child = fork do
  [ask, hear].each(&:close)
  seen = Hash.new(0)
  question.each_line do |line|
    seen[line.to_i % 7] += 1
    answer.puts seen.sort.map { |key, count| key * count }.sum
    answer.flush
  end
  exit! 3
end
[question, answer].each(&:close)

keys = Fiber.new do
  key = 1
  loop { Fiber.yield(key = key * 48_271 % 2_147_483_647) }
end

steps.times do |step|
  key = keys.resume
  20.times { |i| jobs << step * 20 + i + key % 1000 }
  got = Array.new(20) { results.pop }.sort
  ask.puts got.last.last
  ask.flush
  puts "#{step} #{got.sum(&:last)} #{hear.gets.chomp} #{lock.synchronize { total }}"
end
ask.close
workers.size.times { jobs << nil }
workers.each(&:join)
Process.wait(child)
puts "exit #{$?.exitstatus} #{total}"
