% Linear algebra, cells, strings and regular expressions.
steps = str2double(argv(){1});
rand("twister", 7);
randn("twister", 7);
kept = cell(1, 20);
for step = 1:steps
    a = rand(80) + 80 * eye(80);
    b = a \ randn(80, 3);
    kept{mod(step, 20) + 1} = eig(a + a');
    s = struct("name", sprintf("step-%d", step), "value", norm(b));
    words = regexprep(strjoin(cellfun(@(k) sprintf("%d", numel(k)), kept, "UniformOutput", false), ","), "80", "x");
    total = 0;
    for k = 1:2000
        total = mod(total * 31 + k * step, 1000003);
    end
    printf("%d %s %.8f %.6f %d %d\n", step, s.name, s.value, sum(kept{mod(step, 20) + 1}), numel(words), total);
    fflush(stdout);
end
disp("end");
